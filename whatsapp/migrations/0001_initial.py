"""The two tables of the previous service, exactly as it left them.

Nothing else stands here, so that ``migrate --fake-initial`` adopts a database that has
them without touching a row: a migration is faked only if all its tables exist.
"""

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="WhatsAppAuth",
            fields=[
                ("company_id", models.TextField(primary_key=True, serialize=False)),
                ("creds", models.JSONField()),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), null=True
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), null=True
                    ),
                ),
            ],
            options={"db_table": "whatsapp_auth"},
        ),
        migrations.CreateModel(
            name="WhatsAppKey",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "company_id",
                        "key_type",
                        "key_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("company_id", models.TextField()),
                ("key_type", models.TextField()),
                ("key_id", models.TextField()),
                ("value", models.JSONField()),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), null=True
                    ),
                ),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(), null=True
                    ),
                ),
                ("expires_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "whatsapp_keys"},
        ),
    ]
