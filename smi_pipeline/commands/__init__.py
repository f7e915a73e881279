"""What the commands of `smi` do: reading arguments, calling services, showing what came of it. No rules live here."""
