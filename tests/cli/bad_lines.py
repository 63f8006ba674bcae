"""Command lines that cannot be used, and the line that each is answered, below a folder with `faulty_files`."""

from rfdlight.core.registry import NAMES

ATTACK = "test --attack rays "
SQUARE = "test --attack square "
NOISE = "test --attack rays --defense feature_noise "

CASES = {
    # commands and names
    "no command": (
        "",
        "expected a command: fit, test, analyze, calibrate, doctor, layers, recommend, report, scales, sweep",
    ),
    "unknown command": ("tets", "unknown command 'tets'; did you mean test?"),
    "unknown attack": ("test --attack rayz", "unknown attack 'rayz'; did you mean rays?"),
    "unknown attack in a config": ("test -c name.yaml", "unknown attack 'rayz'; did you mean rays?"),
    "no attack": ("test", f"attack: expected a value, got none; known: {', '.join(sorted(NAMES['attack']))}"),
    "unknown defense": (
        ATTACK + "--defense feature_nose",
        "unknown defense 'feature_nose'; did you mean feature_noise or logit_noise or input_noise?",
    ),
    "unknown data": (ATTACK + "--data digit", "unknown data 'digit'; did you mean digits?"),
    "unknown victim": (
        ATTACK + "--model.victim resnet8-digit",
        "unknown victim 'resnet8-digit'; did you mean resnet8-digits or resnet20-cifar10 or resnet20-at-cifar10?",
    ),
    "unknown config": (
        ATTACK + "-c fit/resnet8_digit",
        "unknown config 'fit/resnet8_digit'; did you mean fit/resnet8_digits or fit/resnet20_at or fit/resnet50?",
    ),
    "unknown network": (
        "fit --model.network resnet88",
        "unknown network 'resnet88'; did you mean resnet8 or resnet18 or resnet18d?",
    ),
    "unknown timm network": (
        ATTACK + "--model.victim timm:resnet88",
        "unknown network 'resnet88'; did you mean resnet8 or resnet18 or resnet18d?",
    ),
    # options
    "unknown option of the module": (
        ATTACK + "--model.budgte 3",
        "model.budgte: unknown option; did you mean model.budget?",
    ),
    "an attack without a targeted form": (
        ATTACK + "--attack.targeted true",
        "RayS has no targeted form; leave attack.targeted at false",
    ),
    "more evaluations per query than rows in a forward pass": (
        SQUARE + "--model.batch_size 64 --model.eot 65",
        "model.eot must be at most model.batch_size, 64, got 65",
    ),
    "no evaluations per query": (SQUARE + "--model.eot 0", "model.eot must be at least 1, got 0"),
    "an unknown clock": (
        SQUARE + "--attack.schedule_clock hours",
        "attack.schedule_clock: unknown value 'hours'; known: evaluations, iterations",
    ),
    "even votes": (ATTACK + "--attack.votes 4", "attack.votes must be odd and at least 1, got 4"),
    "unknown section": (
        ATTACK + "--modle.budget=3",
        "modle.budget: unknown option; did you mean model.budget?",
    ),
    "unknown option of an attack": (
        ATTACK + "--attack.epsilon 0.1",
        "attack.epsilon: unknown option; known: attack.eps, attack.norm, attack.targeted, attack.verify, attack.votes",
    ),
    "option of another attack": (
        ATTACK + "--attack.p 0.1",
        "attack.p: unknown option; known: attack.eps, attack.norm, attack.targeted, attack.verify, attack.votes",
    ),
    "unknown option of a defense": (
        NOISE + "--defense.layer layer1",
        "defense.layer: unknown option; did you mean defense.layers?",
    ),
    "unknown option of the data": (
        ATTACK + "--data.num 3",
        "data.num: unknown option; known: data.batch_size, data.num_images, data.seed, data.selection, data.size, "
        "data.validation",
    ),
    "option of another command": ("fit --attack rays", "attack: unknown option; --help lists the options"),
    "unknown option of the report": ("report a_file --outptu x", "outptu: unknown option; did you mean output?"),
    "value without its option": (ATTACK + "surplus", "expected options, which begin with --, got 'surplus'"),
    "option without its value": (ATTACK + "--model.budget", "--model.budget: expected one argument"),
    # numbers
    "eps of zero": (ATTACK + "--attack.eps 0", "attack.eps must be a positive number of pixel units, got 0.0"),
    "negative eps": (ATTACK + "--attack.eps -1", "attack.eps must be a positive number of pixel units, got -1.0"),
    "eps that is no number": (
        ATTACK + "--attack.eps .nan",
        "attack.eps must be a positive number of pixel units, got nan",
    ),
    "eps in words": (ATTACK + "--attack.eps small", "attack.eps: expected a number, got 'small'"),
    "norm that the attack lacks": (ATTACK + "--attack.norm l2", "attack.norm of RayS must be linf, got l2"),
    "an l2 ball without a radius": (
        SQUARE + "--attack.norm l2",
        "attack.eps must be given for l2: the data's reference radius, 0.2, is one of linf",
    ),
    "unknown norm": (ATTACK + "--attack.norm l3", "attack.norm: unknown value 'l3'; did you mean l2?"),
    "negative budget": (ATTACK + "--model.budget -1", "model.budget must be at least 0, got -1"),
    "half a query": (ATTACK + "--model.budget 1.5", "model.budget: expected a whole number, got '1.5'"),
    "no pool_size": (ATTACK + "--model.pool_size 0", "model.pool_size must be at least 1, got 0"),
    "less memory than a batch takes": (
        ATTACK + "--model.memory 0.0001",
        "model.memory must be at least 0.002 GB for 64 images in the pool, got 0.0001; lower model.batch_size or "
        "raise it",
    ),
    "memory without end": (
        ATTACK + "--model.memory .inf",
        "model.memory must be a positive number of GB, got inf",
    ),
    "no memory": (ATTACK + "--model.memory 0", "model.memory must be a positive number of GB, got 0.0"),
    "unknown criterion": (
        ATTACK + "--model.criterion jury",
        "unknown criterion 'jury'; known: never, paper, sequential, single",
    ),
    "a criterion that hears claims for an attack that makes none": (
        "test --attack pgd --model.criterion paper",
        "model.criterion paper has no rule for attacks that read gradients; leave it at sequential",
    ),
    "a precision of the trainer's": (
        ATTACK + "--trainer.precision bf16-mixed",
        "--trainer.precision must be 32-true for rfdlight test, got bf16-mixed; the attack's own is --model.precision",
    ),
    "a processor without float64": (
        ATTACK + "--trainer.accelerator mps",
        "rfdlight test counts in float64, which MPS does not have: give --trainer.accelerator cpu",
    ),
    "a home that nobody has": (
        ATTACK + "--model.victim ~nobody-here/x.json",
        "no home folder is known for ~nobody-here",
    ),
    "options of timm that are set elsewhere": (
        'fit --model.network resnet8 --model.network_options {"checkpoint_path":"x"}',
        "model.network_options may not have checkpoint_path: expected numbers and text, and nothing that the data, "
        "--model.pretrained or --model.checkpoint settles",
    ),
    "epochs in words": (
        "fit --trainer.max_epochs few",
        "trainer.max_epochs: expected a whole number, got 'few'",
    ),
    # defenses
    "negative sigma": (
        ATTACK + "--defense input_noise --defense.sigma -1",
        "defense.sigma must be at least 0, got -1.0",
    ),
    "negative sigma in a list of defenses": (
        ATTACK + "-c negative.yaml",
        "defense.sigma must be at least 0, got -1.0",
    ),
    "sigma in words": (NOISE + "--defense.sigma loud", "defense.sigma: expected a number, got 'loud'"),
    "pattern without a layer": (
        NOISE + "--defense.layers stem*",
        "no layer matches 'stem*'; the network has conv1, bn1, layer1, layer1.0, layer1.0.conv1, layer1.0.bn1, "
        "layer1.0.conv2, layer1.0.bn2, ...",
    ),
    "more sigmas than layers": (
        NOISE + "--defense.sigma [1,2]",
        "defense.sigma needs one value or 1, one per layer, got 2",
    ),
    "missing module": (
        ATTACK + "--defense nowhere.Noise",
        "defense: cannot import 'nowhere.Noise': No module named 'nowhere'",
    ),
    "missing class": (
        "test --attack faulty.Missing",
        "attack: cannot import 'faulty.Missing': module 'faulty' has no attribute 'Missing'",
    ),
    "unrelated class": (
        ATTACK + "--defense faulty.Unrelated",
        "defense: expected a subclass of Defense, got 'faulty.Unrelated'",
    ),
    # data
    "more images than there are": (
        ATTACK + "--data.num_images 600",
        "data.num_images must be from 1 to 599 for this data, got 600",
    ),
    "no images": (ATTACK + "--data.num_images 0", "data.num_images must be at least 1, got 0"),
    "unknown selection": (
        ATTACK + "--data.selection best",
        "data.selection: unknown value 'best'; known: balanced, first, random",
    ),
    "no data root": (
        ATTACK + "--data cifar10",
        "cifar10 needs a data root: give --data.root FOLDER or set RFDLIGHT_DATA; "
        "with --data.download true the official archive is fetched into it",
    ),
    "root without the data": (
        ATTACK + "--data cifar10 --data.root empty",
        "no CIFAR-10 under empty: expected cifar-10-batches-py/ or test/<class>/*.png; "
        "--data.download true fetches the official archive",
    ),
    "damaged image": (
        ATTACK + "--data cifar10 --data.root tree",
        "cannot read the image tree/test/cat/damaged.png: expected PNG, JPEG, WebP or BMP, it is damaged or of "
        "another format",
    ),
    "unknown class folder": (
        ATTACK + "--data cifar10 --data.root zoo",
        "unknown class folder in zoo/test: 'lion'; known: airplane, automobile, bird, cat, deer, dog, frog, horse, "
        "ship, truck",
    ),
    "label outside the classes": (
        ATTACK + "--data faulty.Shifted",
        "digits, test split: labels: expected class indices from 0 to 9, got the label 10",
    ),
    "pixels outside the range": (
        ATTACK + "--data faulty.Bright",
        "expected pixels in [0, 1], got values from 0 to 255",
    ),
    "batch larger than the training data": (
        "fit --data.batch_size 2000",
        "data.batch_size must be at most the 1198 training images, got 2000",
    ),
    "unreadable image in a folder of one's own": (
        ATTACK + "--data folder --data.root flowers --data.num_images 2 --model.victim timm:resnet8 "
        "--model.checkpoint tiny.safetensors",
        "none of the 2 test images can be read; the first: cannot read the image flowers/test/rose/damaged.png: "
        "expected PNG, JPEG, WebP or BMP, it is damaged or of another format",
    ),
    "a single class": (
        ATTACK + "--data folder --data.root garden --model.victim tiny.json",
        "expected the folders of at least 2 classes in garden/test, found rose alone",
    ),
    "ImageNet without class folders": (
        ATTACK + "--data imagenet --data.root flat",
        "expected images as flat/val/<class>/<name>.jpg, found no class folders in flat/val",
    ),
    "ImageNet without a root": (
        ATTACK + "--data imagenet",
        "imagenet needs a data root: give --data.root FOLDER or set RFDLIGHT_IMAGENET",
    ),
    "more held out than there is": (
        "fit --data.validation 1198",
        "data.validation must be below the 1198 training images, got 1198",
    ),
    # training
    "start from another architecture": (
        "fit --model.network resnet20 --model.checkpoint tiny.safetensors",
        "tiny.safetensors does not fit the network 'resnet20': it lacks 72 needed tensors, the first is "
        "layer1.1.bn1.bias",
    ),
    "start from code": (
        "fit --model.network resnet8 --model.checkpoint code.pt",
        "code.pt cannot be read as tensors without running code: Weights only load failed; save the state dict alone, "
        "best as safetensors",
    ),
    "start from half a pickle": (
        "fit --model.network resnet8 --model.checkpoint half.pt",
        "half.pt cannot be read as tensors without running code: PytorchStreamReader failed reading zip archive: "
        "failed finding central directory; save the state dict alone, best as safetensors",
    ),
    "start from half a file": (
        "fit --model.network resnet8 --model.checkpoint half.safetensors",
        "half.safetensors is not a readable safetensors file: Error while deserializing: incomplete metadata, file not "
        "fully covered",
    ),
    "start from nothing": ("fit --model.checkpoint missing.pt", "no weights at missing.pt"),
    "two starts": (
        "fit --model.checkpoint half.pt --model.pretrained true",
        "model.pretrained and model.checkpoint both name the first weights: give one of the two",
    ),
    "pretrained weights that timm has not": (
        "fit --model.network resnet8 --model.pretrained true",
        "timm cannot build 'resnet8': timm has no weights for this network; rfdlight ships some as victims",
    ),
    "option that the network lacks": (
        'fit --model.network resnet8 --model.network_options {"depth":3}',
        "model.network_options does not fit 'resnet8': CifarResNet.__init__() got multiple values for argument 'depth'",
    ),
    "decay above one": ("fit --model.layer_decay 2", "model.layer_decay must lie in (0, 1], got 2.0"),
    "unknown adversary": ("fit --model.adversary pdg", "unknown adversary 'pdg'; did you mean pgd?"),
    "adversary without a ball": (
        "fit --model.adversary pgd --model.adversary.eps 0",
        "model.adversary.eps must be a positive number of pixel units, got 0.0",
    ),
    # files
    "folder of another run": (
        ATTACK + "--run taken",
        "taken already holds another run; give another folder, or move that one",
    ),
    "file as run directory": (
        ATTACK + "--run a_file",
        "a_file is a file; give a folder",
    ),
    "folder of another training": (
        "fit --run taken",
        "taken already holds another run; give another folder, or move that one",
    ),
    "config that is a list": (
        ATTACK + "-c list.yaml",
        "the config list.yaml must be a mapping of settings, got ['budget']",
    ),
    "missing file of a defense": (
        "test --attack rays --defense calibrated/resnet20-featur.yaml",
        "the file 'calibrated/resnet20-featur.yaml' does not exist; did you mean calibrated/resnet20-feature?",
    ),
    "file of a defense that is none": (
        "test --attack rays --defense list.yaml",
        "the config list.yaml must be a mapping of settings, got ['budget']",
    ),
    "empty config": (ATTACK + "-c nothing.yaml", "the config nothing.yaml must be a mapping of settings, got None"),
    "broken config": (
        ATTACK + "--config=broken.yaml",
        "cannot read the config broken.yaml: while parsing a flow node expected the node content, but found "
        "'<stream end>' in \"<unicode string>\", line 2, column 1: ^",
    ),
    "unknown key in a config": (
        ATTACK + "-c key.yaml",
        "model.budgte: unknown option; did you mean model.budget?",
    ),
    "unknown section in a config": (
        ATTACK + "-c section.yaml",
        "modle.budget: unknown option; did you mean model.budget?",
    ),
    "unknown option of an attack in a config": (
        "test -c option.yaml",
        "attack.epsilon: unknown option; known: attack.eps, attack.norm, attack.targeted, attack.verify, attack.votes",
    ),
}
