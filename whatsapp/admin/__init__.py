"""The staff's admin: salons and what happened to them; never creds, keys or codes."""

from whatsapp.admin import keys, people, records, salons

__all__ = ["keys", "people", "records", "salons"]
