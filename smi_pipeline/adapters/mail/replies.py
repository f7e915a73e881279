"""Tell from a refusal of the mail server whether it is about the shop, whatever the mail, and whoever gets it.

Servers name the sender, the account and its quota at any stage: Postfix checks the sender only when it knows the
recipient, and Exchange and Amazon SES when they have the content. The examples of `unit/mail/test_replies.py` are
theirs.
"""

import re

ACCOUNT_CODES = frozenset({525, 530, 534, 535, 538})
"""Codes of RFC 4954 and RFC 5248 for a login that is missing, refused or disabled."""

_ENHANCED = re.compile(r"\b[45]\.(\d{1,3}\.\d{1,3})\b")
_OF_THE_SENDER = frozenset({"1.7", "1.8", "7.8", "7.9", "7.13", "7.60", "7.139"})
_OF_THE_MAILBOX = frozenset({"1.1", "1.2", "1.3", "1.6", "1.10", "2.1", "2.2"})

_OURS = re.compile(
    r"""
    sender\ (address\ |domain\ |identity\ |mail\ )?(is\ |was\ )?(rejected|denied|refused|blocked|invalid|un\w+
        |not\ (allowed|verified|authori[sz]ed|permitted|owned))
    | \b(bad|banned|invalid|unauthori[sz]ed|unverified)\ (outbound\ )?sender
    | send\ ?as\ ?(denied|this|the) | send\ on\ behalf | not\ owned\ by
    | (from|sender)\b.{0,60}\b(not\ (verified|allowed|authori[sz]ed|match)|must\ match|verified\ sender)
    | address\ is\ not\ verified | failed\ the\ check\ in\ region
    | relay(ing)?\ (access\ )?(is\ )?(denied|disallowed|prohibited|not\ (allowed|permitted))
    | (unable|permitted)\ to\ relay
    | (client\ host|helo\ command)\ rejected
    | authentication\ (is\ )?(required|needed) | (must|please)\ (first\ )?(authenticate|log\ ?in) | not\ logged\ in
    | must\ issue\ a\ starttls
    | \byour\b.{0,40}\b(account|quota|plan|subscription|credits?|allowance)\b
    | \b(sending|send|outgoing|outbound|hourly|daily|monthly|messages?|rate|relay)\ ([a-z]+\ )?(quota|limits?|credits)\b
      .{0,20}\b(exceed|reach|used)
    | sending\ (is\ |has\ been\ )?(paused|suspended|disabled|blocked)
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Words that name the sender or the account, whoever is the recipient."""

_PERHAPS_OURS = re.compile(
    r"\b(account|domain|user|service|smtp)\b.{0,30}\b(suspended|deactivated|disabled|locked|blocked|terminated"
    r"|not (yet )?activated)|\bquota\b|\bcredits\b",
    re.IGNORECASE,
)
_OF_THE_RECIPIENT = re.compile(
    r"recipient|mailbox|inbox|tried to reach|trying to contact|over quota|storage|disk|no such", re.IGNORECASE
)


def is_about_us(code: int, text: str) -> bool:
    """Return whether a 4xx or 5xx is about the shop's login, sender, account or quota, and so hits every mail."""
    enhanced = set(_ENHANCED.findall(text))
    if code in ACCOUNT_CODES or enhanced & _OF_THE_SENDER or _OURS.search(text):
        return True
    if enhanced & _OF_THE_MAILBOX or _OF_THE_RECIPIENT.search(text):
        return False
    return bool(_PERHAPS_OURS.search(text))
