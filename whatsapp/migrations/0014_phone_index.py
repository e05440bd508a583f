import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("whatsapp", "0013_metrics"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="whatsappsession",
            index=models.Index(
                django.db.models.functions.text.Right("phone", models.Value(8)),
                name="session_by_end_of_phone",
            ),
        ),
    ]
