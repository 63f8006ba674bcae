"""Command lines with victims that cannot be used, and the line that each is answered."""

ATTACK = "test --attack rays "

CASES = {
    "weights that are not the card's": (
        ATTACK + "--model.victim altered.json",
        "altered.safetensors is not the file its card describes: expected sha256 0000000000000000..., got {sha}...",
    ),
    "weights of another network": (
        ATTACK + "--model.victim deeper.json",
        "deeper.safetensors does not fit the network 'resnet20': it lacks 72 needed tensors, the first is "
        "layer1.1.bn1.bias",
    ),
    "card of an unknown network": (
        ATTACK + "--model.victim unheard.json",
        "the card unheard.json names the network 'resnet9', which timm does not have",
    ),
    "card for other classes": (
        ATTACK + "--model.victim three.json",
        "the victim 'three.json' is for 3 classes, images (3, 32, 32), the data digits has 10 and (3, 32, 32)",
    ),
    "card without weights": (ATTACK + "--model.victim bare.json", "no weights at bare.safetensors"),
    "no card": (
        ATTACK + "--model.victim missing.json",
        "cannot read the victim card missing.json: No such file or directory",
    ),
    "other JSON": (
        ATTACK + "--model.victim nonsense.json",
        "nonsense.json is no victim card: Expected `object`, got `array`",
    ),
    "pickle beside a card": (
        ATTACK + "--model.victim pickled.json",
        "pickled.safetensors is not a readable safetensors file: Error while deserializing: header too large",
    ),
    "pickle as checkpoint": (
        ATTACK + "--model.victim timm:resnet8 --model.checkpoint pickled.safetensors",
        "pickled.safetensors is not a readable safetensors file: Error while deserializing: header too large",
    ),
    "code as checkpoint": (
        ATTACK + "--model.victim timm:resnet8 --model.checkpoint code.pt",
        "code.pt cannot be read as tensors without running code: Weights only load failed; save the state dict alone, "
        "best as safetensors",
    ),
    "checkpoint of another network": (
        ATTACK + "--model.victim timm:resnet20 --model.checkpoint tiny.safetensors",
        "tiny.safetensors does not fit the network 'resnet20': it lacks 72 needed tensors, the first is "
        "layer1.1.bn1.bias",
    ),
    "checkpoint with another head": (
        ATTACK + "--model.victim timm:resnet8 --model.checkpoint three.safetensors",
        "three.safetensors has a head for 3 classes, the data has 10; to fine-tune it: rfdlight fit --model.network "
        "resnet8 --model.checkpoint three.safetensors",
    ),
    "weights as victim": (
        ATTACK + "--model.victim tiny.safetensors",
        "a victim is a shipped name, a card (.json), timm:NAME or an import path such as my_file.py:my_function, got "
        "'tiny.safetensors'; files of weights go to --model.checkpoint",
    ),
    "timm network without weights": (
        ATTACK + "--model.victim timm:resnet8",
        "'timm:resnet8' alone has random weights; give its file with --model.checkpoint",
    ),
    "checkpoint beside a card": (
        ATTACK + "--model.victim tiny.json --model.checkpoint tiny.safetensors",
        "--model.checkpoint is for timm:NAME or an import path; the victim 'tiny.json' has weights of its own",
    ),
    "victim with three outputs": (
        ATTACK + "--model.victim faulty.ThreeOutputs",
        "the victim 'faulty.ThreeOutputs' must return logits of shape (2, 10) for 2 images, got float32 of "
        "shape (2, 3)",
    ),
    "victim that answers NaN": (
        ATTACK + "--model.victim faulty.Unsure",
        "the victim answered NaN or infinity; attacks need finite scores",
    ),
    "victim that needs arguments": (
        ATTACK + "--model.victim faulty.needs_a_depth",
        "'faulty.needs_a_depth' must need no arguments: missing a required argument: 'depth'; wrap it in a function",
    ),
    "victim that is built already": (
        ATTACK + "--model.victim faulty.a_module",
        "the victim 'faulty.a_module' must return logits of shape (2, 10) for 2 images, got float32 of shape "
        "(2, 3, 32, 32)",
    ),
    "victim that makes no module": (
        ATTACK + "--model.victim faulty.a_number",
        "'faulty.a_number' must make a torch.nn.Module, it made a int",
    ),
    "victim in a missing module": (
        ATTACK + "--model.victim nowhere.net",
        "cannot import the victim 'nowhere.net': No module named 'nowhere'",
    ),
}
