"""`make soak`: thousands of orders through the real stack, while every stand-in misbehaves at random.

What happened is judged by the stand-ins' ledgers, the customers' mailboxes and the files behind their links. Of the
product only the list of person's tasks is asked: they are the right end of what no program can settle.
"""
