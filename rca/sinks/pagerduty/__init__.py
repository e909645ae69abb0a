"""PagerDuty: one alert per incident, through Events API v2."""
