"""The data and the network of the tutorials: scikit-learn's handwritten digits, and a small CNN for them."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from rfdlight.data import ImageData, Images


class SmallDigits(ImageData):
    """The 1,797 digits as they are: 1 x 8 x 8, 17 grey levels. Every third image is a test image."""

    name = "small-digits"
    num_classes = 10
    mean, std = (0.3,), (0.37,)
    reference_eps = 0.3
    default_num_images = 40

    def load(self, split):
        digits = load_digits()
        pixels = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[:, None]
        rows = [row for row in range(len(pixels)) if (row % 3 == 0) == (split == "test")]
        ids = [f"small-digits/{split}/{row:04d}" for row in rows]
        return Images(pixels[rows], torch.from_numpy(digits.target)[rows], ids)


class SmallNet(nn.Module):
    """Logits of pixels in [0, 1]; the normalisation by mean and standard deviation is part of the network."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(64 * 4 * 4, 10)

    def forward(self, pixels):
        return self.head(self.body(self.stem((pixels - 0.3) / 0.37)).flatten(1))


def train(epochs=15):
    """Train on the training images, with noise on the pixels: without this noise any random noise fools the network."""
    torch.manual_seed(0)
    images = SmallDigits().images("train")
    x, y = images.pixels.float() / 255, images.labels
    net = SmallNet()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            noisy = x[rows] + 0.3 * torch.rand(len(rows), 1, 1, 1) * torch.randn_like(x[rows])
            loss = nn.functional.cross_entropy(net(noisy), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def my_net():
    """Return the trained network from the file `my_net.pt`: for `--model.victim my_net.my_net`."""
    net = SmallNet()
    net.load_state_dict(torch.load("my_net.pt", weights_only=True))
    return net
