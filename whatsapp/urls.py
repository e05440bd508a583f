"""HTTP routes under /marketplace/."""

from django.urls import URLPattern, path

from whatsapp import views

urlpatterns: list[URLPattern] = [
    path("connect", views.connect, name="marketplace"),
    path("regions.json", views.regions, name="marketplace-regions"),
]
