"""Give every salon that the previous service left creds for a row of its own.

Reads the legacy tables and writes ours; ids that are not ``company_<number>`` are left
for an operator to judge. A linked salon starts as "connecting", so that a page never
tells its owner to link a phone that is linked.
"""

from django.db import migrations

ADOPT = """
WITH adopted AS (
    INSERT INTO whatsapp_salon (salon_id, title, expected_phone, shared_phone_allowed)
    SELECT substr(company_id, 9)::bigint, 'Salon ' || substr(company_id, 9), '', false
    FROM whatsapp_auth
    WHERE company_id ~ '^company_[1-9][0-9]{0,17}$'
    ON CONFLICT (salon_id) DO NOTHING
    RETURNING id, salon_id
)
INSERT INTO whatsapp_whatsappsession
    (salon_id, status, reason, phone, wanted, owner, epoch, resets, revision)
SELECT adopted.id,
       CASE WHEN me IS NULL THEN 'unlinked' ELSE 'connecting' END,
       '', coalesce(me[1], ''), true, '', 0, 0, 0
FROM adopted
JOIN whatsapp_auth auth ON auth.company_id = 'company_' || adopted.salon_id
LEFT JOIN LATERAL regexp_match(
    CASE WHEN jsonb_typeof(auth.creds->'account') = 'object'
         THEN auth.creds->'me'->>'id' END,
    '^([0-9]{7,15}):[0-9]+@s\\.whatsapp\\.net$'
) AS me ON true
"""


class Migration(migrations.Migration):
    dependencies = [("whatsapp", "0002_salons_and_sessions")]
    operations = [migrations.RunSQL(ADOPT, migrations.RunSQL.noop)]
