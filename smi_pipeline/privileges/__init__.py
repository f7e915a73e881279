"""What runs without root's rights when root starts it: the account, the files it can reach, and their ownership.

Belongs here: everything that differs when a command is run as root. For other users all of it does nothing.
"""
