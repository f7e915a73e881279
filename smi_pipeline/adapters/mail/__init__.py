"""Mail: content, rendering and delivery by SMTP."""
