from django.db import migrations, models

# A trigger, because attempts end in many processes, commands among them, and by plain
# SQL too. Each end is a row of its own, which a gateway sums up every hour: a counter
# that all must write to would make those wait who have nothing to do with each other.
COUNT_ENDS = """
CREATE FUNCTION whatsapp_count_attempt_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO whatsapp_attemptend (kind, outcome, error)
    VALUES (NEW.kind, NEW.stage, NEW.error);
    RETURN NULL;
END $$;
CREATE TRIGGER count_end AFTER UPDATE OF finished_at ON whatsapp_pairingattempt
FOR EACH ROW WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
EXECUTE FUNCTION whatsapp_count_attempt_end();
-- From here on nobody ends one before we are done.
INSERT INTO whatsapp_attemptend (kind, outcome, error, attempts)
SELECT kind, stage, error, count(*) FROM whatsapp_pairingattempt
WHERE finished_at IS NOT NULL GROUP BY kind, stage, error;
"""
COUNT_NO_ENDS = """
DROP TRIGGER count_end ON whatsapp_pairingattempt;
DROP FUNCTION whatsapp_count_attempt_end();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('whatsapp', '0012_sealing'),
    ]

    operations = [
        migrations.CreateModel(
            name='AttemptEnd',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('code', 'Pairing code'), ('qr', 'QR')], max_length=4)),
                ('outcome', models.CharField(help_text='Its last stage.', max_length=10)),
                ('error', models.CharField(blank=True, max_length=32)),
                ('attempts', models.BigIntegerField(db_default=1, default=1)),
            ],
        ),
        migrations.RunSQL(COUNT_ENDS, COUNT_NO_ENDS),
        migrations.AddField(
            model_name='gateway',
            name='metrics',
            field=models.JSONField(db_default=models.Value({}, models.JSONField()), default=dict, help_text='What it had counted by then (whatsapp/metrics.py).'),
        ),
    ]
