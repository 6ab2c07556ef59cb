"""A Django project in one file: its settings, and a view whose e-mail goes through mailqueue.

export MAILQUEUE_CONFIG=config.json DJANGO_SETTINGS_MODULE=django_settings PYTHONPATH=examples
python -m django migrate
python -m django runserver
curl -d name=ann -d email=ann@example.org http://127.0.0.1:8000/signup
"""

from __future__ import annotations

import os

from django.core.mail import EmailMultiAlternatives
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

EMAIL_BACKEND = "mailqueue.django.EmailBackend"  # Django 6.1 also knows it as MAILERS
MAILQUEUE_CONFIG = os.environ.get("MAILQUEUE_CONFIG", "config.json")
DEFAULT_FROM_EMAIL = "Shop <shop@example.com>"

ALLOWED_HOSTS = ["127.0.0.1"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", "shop.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "mailqueue.django"]
ROOT_URLCONF = __name__
SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
USE_TZ = True


def signup(request: HttpRequest) -> HttpResponse:
    """A new user gets a mail. If the name is taken, nobody does."""
    from django.contrib.auth.models import User  # there are models once the settings are read

    name, address = request.POST["name"], request.POST["email"]
    welcome = EmailMultiAlternatives("Welcome", f"Hello {name}!", to=[address])
    welcome.attach_alternative("<p>You are one of us now.</p>", "text/html")
    welcome.tags = ["welcome"]
    try:
        with transaction.atomic():
            user = User.objects.create_user(name, address)
            # However often this user's welcome is sent, there is one.
            welcome.idempotency_key = f"welcome-{user.pk}"
            # Only once the user is there for good.
            transaction.on_commit(welcome.send)
    except IntegrityError:
        return JsonResponse({"error": "this name is taken"}, status=409)
    return JsonResponse({"id": welcome.mailqueue_id}, status=201)


urlpatterns = [path("signup", require_POST(signup))]
