from rfdlight.errors import UserError, unknown_name


def test_the_nearest_names_are_given_whatever_the_case():
    assert str(unknown_name("attack", "SQUARE", ["rays", "square"])) == "unknown attack 'SQUARE'; did you mean square?"


def test_without_a_near_name_all_are_given_in_order():
    assert str(unknown_name("attack", "zzz", {"square": 1, "rays": 2})) == "unknown attack 'zzz'; known: rays, square"


def test_a_long_table_is_cut():
    error = unknown_name("network", "zzz", [f"net{i:04d}" for i in range(1000)])
    assert str(error).endswith("net0019 and 980 more")
    assert len(str(error)) < 300


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
