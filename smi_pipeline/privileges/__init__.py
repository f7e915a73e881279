"""Root keeps nothing to itself and gives nothing away: who the processes are, what they may see, whose the files are.

Belongs here: everything that is different when a command is run as root. To everybody else all of it does nothing.
"""
