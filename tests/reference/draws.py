"""The random numbers that an attack of the package draws, computed with Python's integers."""

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
