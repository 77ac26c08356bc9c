"""What the LightningModules share."""
