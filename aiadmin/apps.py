"""The project's own checks; Django's admin, on the site of our own."""

from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    """Not named in the app of the salons: that is imported before the site is there."""

    default_site = "whatsapp.admin_site.Site"


class ProjectConfig(AppConfig):
    """No models: it is here for `manage.py check --deploy`."""

    name = "aiadmin"

    def ready(self) -> None:
        """Register the checks."""
        from aiadmin import checks  # noqa: F401
