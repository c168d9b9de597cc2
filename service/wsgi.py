"""What Gunicorn imports: the app, with the settings of the environment."""

from service.app import create_app
from service.settings import Settings

app = create_app(Settings.from_env())
