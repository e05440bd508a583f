"""The staff's admin: salons and what happened to them; never creds, keys or codes."""

from whatsapp.admin import people, records, salons

__all__ = ["people", "records", "salons"]
