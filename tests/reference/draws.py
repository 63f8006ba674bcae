"""The random numbers that an attack of the package draws, computed with Python's integers."""

import torch

GAMMA = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def word(seed, stream, number, index):
    key = mix((mix((seed + GAMMA * (stream + 1)) & MASK) + GAMMA * (number + 1)) & MASK)
    return mix((key + GAMMA * (index + 1)) & MASK)


def uniform(seed, stream, number, count):
    return [(word(seed, stream, number, i) >> 11) / 2**53 for i in range(count)]


def signs(seed, stream, number, count):
    words = [word(seed, stream, number, i) for i in range((count + 63) // 64)]
    return [1 if (words[i // 64] >> (i % 64)) & 1 else -1 for i in range(count)]


def biased_signs(seed, stream, number, means):
    """Return signs with these means: each takes 16 bits of a word, the lowest first, as a signed number."""
    signs = []
    for i, mean in enumerate(means):
        level = (word(seed, stream, number, i // 4) >> 16 * (i % 4)) & 0xFFFF
        signs.append(1 if (level ^ 0x8000) - 0x8000 + 0.5 <= 2**15 * mean else -1)
    return signs


class SquareDraws:
    """What `square` draws for one image; steps count from 0."""

    def __init__(self, seed, channels, width):
        self.seed, self.channels, self.width = seed, channels, width

    def stripes(self):
        """Return a sign per channel and column."""
        flat = signs(self.seed, 0, 0, self.channels * self.width)
        return [flat[c * self.width : (c + 1) * self.width] for c in range(self.channels)]

    def corner(self, t):
        """Return two uniform numbers, for the top row and the left column."""
        return uniform(self.seed, 1, t + 1, 2)

    def paint(self, t):
        """Return a sign per channel."""
        return signs(self.seed, 2, t + 1, self.channels)

    def other(self, t):
        """Return which channels to negate where `paint` changes nothing: never none of them."""
        number = 1 + int(uniform(self.seed, 3, t + 1, 1)[0] * (2**self.channels - 1))
        return [(number >> c) & 1 for c in range(self.channels)]


class NoiseDraws:
    """What `random_noise` draws for one image."""

    def __init__(self, seed, size):
        self.seed, self.size = seed, size

    def signs(self, number):
        return signs(self.seed, 0, number, self.size)


class BernoulliDraws:
    """What `bernoulli` draws for one image; queries count from 0."""

    def __init__(self, seed):
        self.seed = seed

    def signs(self, number, means):
        return biased_signs(self.seed, 0, number, means)


class SignFlipDraws:
    """What `signflip` draws for one image; iterations count from 0."""

    def __init__(self, seed):
        self.seed = seed

    def start(self, number, size):
        """Return uniform pixels, for the start and each time it is drawn again."""
        return uniform(self.seed, 0, number, size)

    def noise(self, number, size):
        return signs(self.seed, 1, number, size)

    def flips(self, number, size):
        """Return numbers in [0, 1], rounded to float32: each half of a word, taken with its sign, makes one."""
        words = [word(self.seed, 2, number, i) for i in range((size + 1) // 2)]
        halves = [half for whole in words for half in (whole & (2**32 - 1), whole >> 32)][:size]
        signed = [half - 2**32 if half >= 2**31 else half for half in halves]
        return (torch.tensor(signed).float() * 2.0**-32 + 0.5).tolist()


class SquareL2Draws:
    """What `square_l2` draws for one image; steps count from 0."""

    def __init__(self, seed, channels):
        self.seed, self.channels = seed, channels

    def start(self, cells):
        """Return which cells' bumps are transposed, and a sign per channel and cell."""
        flat = signs(self.seed, 5, 0, self.channels * cells)
        turns = [turn < 0 for turn in signs(self.seed, 4, 0, cells)]
        return turns, [flat[c * cells : (c + 1) * cells] for c in range(self.channels)]

    def windows(self, t):
        """Return four uniform numbers, for the top row and the left column of two windows."""
        return uniform(self.seed, 6, t + 1, 4)

    def sign(self, t):
        """Return a sign per channel."""
        return signs(self.seed, 7, t + 1, self.channels)

    def turn(self, t):
        """Return whether the bump is transposed."""
        return signs(self.seed, 8, t + 1, 1)[0] > 0


class OrderDraws:
    """The random orders that `simba`, and with its stream `parsimonious`, draw for one image."""

    def __init__(self, seed, stream=0):
        self.seed, self.stream = seed, stream

    def order(self, number, size):
        """Return a random order of `size` places: a Feistel network, walked until it comes back into range."""
        a = 1
        while a * a < size:
            a += 1
        b = -(-size // a)

        def signed_word(key):
            value = word(self.seed, self.stream, key, 0)
            return value - 2**64 if value >= 2**63 else value

        def walk(value):
            left, right = divmod(value, b)
            for turn in range(6):
                key = (number * 6 + turn) * 2**32
                if turn % 2:
                    right = (right + signed_word(key + left)) % b
                else:
                    left = (left + signed_word(key + right)) % a
            return left * b + right

        def sent(place):
            value = walk(place)
            while value >= size:
                value = walk(value)
            return value

        return [sent(place) for place in range(size)]
