"""Command lines of the commands that need no trainer, which cannot be used, and the line that each is answered."""

RECOMMEND = "recommend resnet8-digits --data digits "

CASES = {
    # recommendations
    "recommendation without a drop": (
        RECOMMEND + "--target_drop 0",
        "target_drop: expected a number in (0, 1), got 0.0; 0.02 is 2 points",
    ),
    "recommendation with a tolerance beyond the drop": (
        RECOMMEND + "--target_drop 0.004",
        "tolerance: expected a number in (0, target_drop), got 0.005; 0.002 is 0.2 points",
    ),
    "recommendation without draws": (RECOMMEND + "--max_draws 1", "max_draws: expected at least 4, got 1"),
    "recommendation without a step": (RECOMMEND + "--step 0", "step: expected a positive number, got 0.0"),
    "recommendation of nothing": (RECOMMEND + "--confirm 0", "confirm: expected at least 1, got 0"),
    "recommendation without queries": (RECOMMEND + "--budget 0", "budget: expected at least 1, got 0"),
    "recommendation without images": (RECOMMEND + "--num_images 0", "num_images: expected at least 1, got 0"),
    "recommendation with all images": (
        RECOMMEND + "--num_images 398",
        "num_images: expected at most 397, got 398; 399 test images of digits are not attacked, and the calibration "
        "needs 2",
    ),
    "recommendation by a white-box attack": (
        RECOMMEND + "--attack pgd",
        "--attack: expected a black-box attack, got pgd",
    ),
    "recommendation by a targeted attack": (
        RECOMMEND + "--attack.targeted true",
        "attack.targeted: expected false, got true; candidates are compared by robust accuracy",
    ),
    "recommendation in l2 without a radius": (
        RECOMMEND + "--attack.norm l2",
        "attack.eps must be given for l2: the data's reference radius, 0.2, is one of linf",
    ),
    "recommendation by an unknown attack": (
        RECOMMEND + "--attack squar",
        "unknown attack 'squar'; did you mean square?",
    ),
    "recommendation for an unknown layer": (
        RECOMMEND + "--layers stem*",
        "no layer matches 'stem*'; the network has conv1, bn1, layer1, layer1.0, layer1.0.conv1, layer1.0.bn1, "
        "layer1.0.conv2, layer1.0.bn2, ...",
    ),
    "recommendation as another file": (
        RECOMMEND + "--output a_file.json",
        "--output: expected a file that ends in .yaml, got 'a_file.json'",
    ),
    "recommendation over a file": (
        RECOMMEND + "--output key.yaml",
        "--output: expected a new file, got key.yaml, which exists; give another name, or move the file",
    ),
    "recommendation for nobody": ("recommend --data digits", "victim: expected a value, got none"),
    "recommendation without data": (
        "recommend timm:resnet8",
        "data: expected a value, got none; known: cifar10, digits, folder, imagenet",
    ),
    # the doctor
    "doctor with a word": ("doctor now", "expected options, which begin with --, got 'now'"),
    "doctor with an unknown option": ("doctor --victim a.json", "victim: unknown option; did you mean victims?"),
    "doctor for unknown data": ("doctor --data digit", "unknown data 'digit'; did you mean digits?"),
    "doctor for data out of range": (
        "doctor --data digits --data.num_images 0",
        "data.num_images must be at least 1, got 0",
    ),
    "doctor for an unknown victim": (
        "doctor --victims resnet8-digit",
        "unknown victim 'resnet8-digit'; did you mean resnet8-digits or resnet20-cifar10 or resnet20-at-cifar10?",
    ),
    "doctor for weights": (
        "doctor --victims [resnet8-digits,tiny.safetensors]",
        "a victim is given by its card, a .json, got 'tiny.safetensors'; weights without a card go to "
        "--model.checkpoint, with --model.victim timm:NAME or an import path of the network",
    ),
    # sweeps and reports
    "sweep of nothing": ("sweep", "experiment: expected a value, got none"),
    "sweep of a config of another kind": (
        "sweep key.yaml",
        "unknown part of the experiment key.yaml 'model'; known: axes, common, leave_out",
    ),
    "sweep of a missing file": (
        "sweep cifar10_resnet2",
        "unknown config 'cifar10_resnet2'; did you mean cifar10_resnet20 or fit/resnet20 or fit/resnet20_at?",
    ),
    "report of nothing": ("report", "runs: expected a value, got none"),
    "report of a missing folder": ("report nowhere", "expected a run directory, got nowhere, which is no folder"),
    "report at no budget": (
        "report finished --budgets []",
        "budgets: expected numbers of queries of at least 1, got []",
    ),
    "report at a budget of 0": (
        "report finished --budgets [10,0]",
        "budgets: expected numbers of queries of at least 1, got [10, 0]",
    ),
    "report at a budget that is no number": (
        "report finished --budgets many",
        "budgets: expected a whole number, got 'many'",
    ),
    "report at a budget above a run's": (
        "report finished --budgets 1000 --output out",
        "budgets: expected at most 30, the budget of finished, got 1,000",
    ),
    "report of images that are none": (
        "report finished --output out",
        "finished/images.safetensors holds no images of a run: expected clean, adversarial and ids, got: "
        "Error while deserializing header: header too small",
    ),
    "report of an unfinished run": (
        "report taken",
        "taken is no run directory: it lacks config.yaml, summary.json",
    ),
    "null for a number": (
        "test --attack rays -c null_model.yaml",
        "model.budget: expected a whole number, got null; leave it out for its default",
    ),
    "null for a name": (
        "fit -c null_network.yaml",
        "model.network: expected text, got null; leave it out for its default",
    ),
    "null for an attack's option": (
        "test -c null_attack.yaml",
        "attack.p: expected a number, got null; leave it out for its default",
    ),
    "null for a defense's option": (
        "test --attack rays -c null_defense.yaml",
        "defense.sigma: expected a number, got null; leave it out for its default",
    ),
    "null for the trainer's option": (
        "fit -c null_trainer.yaml",
        "trainer.accelerator: expected text, got null; leave it out for its default",
    ),
}
