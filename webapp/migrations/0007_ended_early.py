from typing import Any

from django.db import migrations, models


def read_reports(apps: Any, schema_editor: Any) -> None:
    """Of searches that were there before: what their reports say."""
    Search = apps.get_model("webapp", "Search")
    for search in Search.objects.filter(report__isnull=False).only("report").iterator():
        if early := (search.report or {}).get("ended_early"):
            Search.objects.filter(pk=search.pk).update(ended_early=early)


class Migration(migrations.Migration):

    dependencies = [
        ('webapp', '0006_webhooks'),
    ]

    operations = [
        migrations.AddField(
            model_name='search',
            name='ended_early',
            field=models.JSONField(default=list, help_text='Of search, comparison and retraining what its owner ended before its time.'),
        ),
        migrations.RunPython(read_reports, migrations.RunPython.noop),
    ]
