"""Checks of an attack against the data and the success criterion."""

from __future__ import annotations

from rfdlight.attacks.base import Attack
from rfdlight.core.threat import check_eps
from rfdlight.data.base import ImageData
from rfdlight.errors import UserError


def settle_eps(attack: Attack, data: ImageData) -> Attack:
    """Return the attack, without a radius with the reference radius of the data; an l2 radius is checked.

    Raises:
        UserError: If the attack is not in linf, for which data have a reference radius, or the ball holds every image.
    """
    if attack.eps is not None:
        if attack.norm == "l2":
            check_eps(attack.eps, attack.norm, "attack.eps", data.image_shape)
        return attack
    if data.reference_eps is None:
        raise UserError(f"attack.eps must be given: the data {data.name} has no reference radius")
    if attack.norm != "linf":
        raise UserError(
            f"attack.eps must be given for {attack.norm}: the data's reference radius, {data.reference_eps:g}, "
            "is one of linf"
        )
    check_eps(data.reference_eps, "linf", f"the reference_eps of the data {data.name}")
    return attack.configured(eps=data.reference_eps)
