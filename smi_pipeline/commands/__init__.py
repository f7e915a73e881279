"""The commands of `smi`: they read arguments, call services and show the result. No rules live here."""
