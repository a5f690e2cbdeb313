"""The LoRA files of this machine for whoever chooses one: what each is, by which words it is found."""
