"""HTTP routes under /marketplace/."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
