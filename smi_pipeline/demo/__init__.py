"""`smi demo`: the whole shop on this machine, with customers, faults, and a judge who trusts only the stand-ins.

Nothing here reads the pipeline's tables: what is shown comes through the public doors, what is judged from the
ledgers, mailboxes and downloads.
"""
