"""The two LightningModules: `Classifier` makes victims, `AttackEvaluation` attacks them."""
