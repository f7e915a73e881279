"""Downloads from allowed hosts, connected to the very address that was checked."""
