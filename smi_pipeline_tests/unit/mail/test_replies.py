"""Which refusals of mail servers are about the shop, in the words of servers that people use."""

import pytest

from smi_pipeline.adapters.mail.replies import is_about_us

OURS = [
    (535, "5.7.139 Authentication unsuccessful, basic authentication is disabled."),  # Exchange
    (534, "5.7.9 Application-specific password required."),  # Gmail
    (530, "5.7.0 Authentication Required."),
    (525, "5.7.1 Unauthorized IP address"),  # Brevo
    (550, "5.7.1 Your account has been suspended"),
    (550, "Your email account has been temporarily suspended due to suspicious activity"),
    (554, "5.7.0 Account suspended"),
    (554, "Message rejected: Sending paused for this account."),  # Amazon SES
    (454, "Throttling failure: Daily message quota exceeded."),
    (554, "Message rejected: Email address is not verified. The following identities failed the check in region X"),
    (550, "5.4.5 Daily user sending limit exceeded."),  # Gmail
    (550, "5.4.5 Daily sending quota exceeded"),
    (550, "5.7.60 SMTP; Client does not have permissions to send as this sender"),  # Exchange
    (554, "5.2.252 SendAsDenied; [address] not allowed to send as [address]"),
    (550, "5.1.8 Access denied, bad outbound sender AS(42004)"),
    (550, "5.1.8 <[address]>: Sender address rejected: Domain not found"),  # Postfix
    (553, "5.7.1 <[address]>: Sender address rejected: not owned by user [address]"),
    (554, "5.7.1 <[address]>: Recipient address rejected: You have exceeded your Outmail quota."),
    (554, "5.7.1 <[address]>: Relay access denied"),
    (554, "5.7.1 <shop.example[192.0.2.1]>: Client host rejected: Access denied"),
    (450, "4.7.1 <shop>: Helo command rejected: Host not found"),
    (450, "4.2.1 Peak SMTP relay limit exceeded for customer."),  # Google
    (550, "The from address does not match a verified Sender Identity."),  # SendGrid
    (451, "Authentication failed: Maximum credits exceeded"),
    (502, "5.7.0 Your SMTP account is not yet activated."),  # Brevo
    (550, "relay not permitted"),  # Exim
    (503, "5.5.1 Please authenticate first"),
    (550, "5.7.1 Sending limit reached for today"),
    (552, "Quota exceeded"),
    (550, "5.7.0 Mail Sending denied"),  # Google
    (550, "5.7.1 Invalid credentials for relay [192.0.2.1]"),
    (550, "5.7.1 The IP you're using to send mail is not authorized to send email directly to our servers"),
    (421, "4.7.28 Gmail has detected an unusual rate of mail originating from your IP address"),
    (550, "5.7.26 Unauthenticated email from shop.example is not accepted due to domain's DMARC policy"),
    (550, "5.7.57 Client not authenticated to send mail."),  # Exchange
    (550, "5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM"),
    (550, "5.2.2 Submission quota exceeded"),
    (550, "5.1.90 Your message can't be sent because you've reached your daily limit for message recipients"),
    (554, "5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; Failed to process message"),
    (550, "5.7.501 Access denied, spam abuse detected"),
    (550, "5.7.705 Access denied, tenant has exceeded threshold"),
    (550, "5.7.708 Service unavailable. Access denied, traffic not accepted from this IP"),
    (554, "Access denied: User `arn:aws:iam::1:u' is not authorized to perform `ses:SendRawEmail'"),  # Amazon SES
    (421, "Domain mg.shop.example is not allowed to send: The domain is unverified and requires DNS configuration"),
    (550, "Free accounts are for test purposes only. Please upgrade or add the address to authorized recipients"),
    (451, "You have exceeded your messaging limits"),  # SendGrid
    (403, "You are not authorized to send from that email address"),
    (550, "Unauthenticated senders not allowed"),
    (452, "Too many recipients received this hour"),
    (550, "5.7.1 Unconfigured Sending Domain <shop.example>"),  # SparkPost
    (550, "5.7.1 Exceed Sending Limit (daily)"),
    (452, "4.5.3 Daily message limit exceeded"),
    (550, "Sending has been rejected because the sender you used [address] is not valid"),  # Brevo
    (550, "Domain shop.example has exceeded the max emails per hour (150/150 (100%)) allowed. Message discarded."),
    (451, "Domain shop.example has exceeded the max defers and failures per hour (5/5 (100%)) allowed."),  # cPanel
    (550, "Outgoing mail from shop.example has been suspended."),
    (550, "Sender verify failed"),  # Exim
    (550, "Access denied - Invalid HELO name (See RFC2821 4.1.1.1)"),
    (550, "User [address] has exceeded its 24-hour sending limit. Messages to 250 recipients out of 250 allowed have"),
    (552, "Message would take you over your relay quota of 500 Current quota used: 487"),  # GoDaddy
    (550, "exceeded hour limit"),
    (550, "5.4.6 Unusual sending activity detected. Please try after sometime"),  # Zoho
    (550, "not local sender over smtp"),  # mail.ru
    (550, "5.7.0 From address is not one of your addresses."),  # iCloud
    (553, "sorry, your envelope sender domain must exist (#5.7.1)"),  # qmail
    (553, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
    (550, "5.7.23 <[address]>: Recipient address rejected: Message rejected due to: SPF fail - not authorized"),
    (554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; [link]"),
    (550, "5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org"),
    (550, "SMTP AUTH is required for message submission on port 587"),
    (550, "5.7.1 Authentication credentials invalid"),
    (550, "5.7.1 You have reached your monthly email limit"),
    (554, "5.7.0 Trial expired"),
    (451, "4.7.1 Too many emails sent in the last hour"),
]

NOT_OURS = [
    (550, "5.1.1 <[address]>: Recipient address rejected: User unknown in local recipient table"),
    (550, "5.1.1 The email account that you tried to reach does not exist."),
    (550, "5.2.1 The email account that you tried to reach is disabled."),
    (452, "4.2.2 The email account that you tried to reach is over quota."),
    (552, "5.2.2 This message is larger than the current system limit or the recipient's mailbox is full."),
    (552, "5.2.2 mailbox quota exceeded"),
    (550, "5.1.1 <[address]>: Recipient address rejected: user account disabled"),
    (450, "4.2.0 <[address]>: Recipient address rejected: Greylisted, see [link]"),
    (451, "4.7.1 Greylisting in action, please come back later"),
    (450, "4.2.1 The user you are trying to contact is receiving mail too quickly."),
    (552, "5.3.4 Message size exceeds fixed limit"),
    (554, "5.7.1 Message rejected as spam by content filtering"),
    (553, "5.1.3 The recipient address is not a valid RFC-5321 address."),
    (421, "4.3.2 Service shutting down"),
    (550, "User account is over quota"),
    (452, "4.3.1 Insufficient system storage"),
    (452, "4.2.2 The recipient's inbox is out of storage space and inactive."),
    (550, "User has exceeded his disk quota"),
    (452, "4.5.3 Too many recipients"),
    (552, "5.3.4 Your message exceeded Google's message size limits."),
    (454, "Throttling failure: Maximum sending rate exceeded."),  # of a second, which passes
    (432, "4.3.2 Concurrent connections limit exceeded."),
    (421, "4.7.0 Too many connections from your IP"),
    (452, "4.4.5 Messages per second limit exceeded"),
    (554, "Sorry your message to [address] cannot be delivered. This account has been disabled or discontinued"),
    (550, "5.7.1 You are not authorized to send to this recipient"),
    (550, "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"),
    (550, "5.4.1 Recipient address rejected: Access denied. AS(201806281)"),
    (451, "<[address]>: greylisted, [4.7.8.12] is new here"),  # an address of IPv4 is no status code
    (556, "5.1.10 <[address]>: Recipient address rejected: Domain b.example does not accept mail (nullMX)"),
    (451, "4.3.0 Mail server temporarily rejected message."),
]


@pytest.mark.parametrize(("code", "text"), OURS)
def test_a_refused_login_sender_account_or_quota_is_the_shops(code: int, text: str) -> None:
    assert is_about_us(code, text)


@pytest.mark.parametrize(("code", "text"), NOT_OURS)
def test_a_refused_recipient_content_or_moment_is_not_the_shops(code: int, text: str) -> None:
    assert not is_about_us(code, text)
