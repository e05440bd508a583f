"""HTTP routes of the whole project."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from aiadmin import health, metrics
from whatsapp import api

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("i18n/", include("django.conf.urls.i18n")),
    path("api/v1/", api.urls),
    path("marketplace/", include("whatsapp.urls")),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", metrics.metrics),
]
