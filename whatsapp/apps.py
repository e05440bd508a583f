"""The Django app."""

from django.apps import AppConfig


class WhatsAppConfig(AppConfig):
    """WhatsApp links of beauty salons."""

    name = "whatsapp"
    verbose_name = "WhatsApp"
    default_auto_field = "django.db.models.AutoField"
