"""Django's admin, on the site of our own."""

from django.contrib.admin.apps import AdminConfig as DjangoAdminConfig


class AdminConfig(DjangoAdminConfig):
    """Not named in the app of the salons: that is imported before the site is there."""

    default_site = "whatsapp.admin_site.Site"
