import datetime


def is_leap(year: int) -> bool:
    if year % 400 == 0:
        return True
    return year % 4 == 0 and year % 100 != 0


def next_weekday(day: datetime.date, weekday: int) -> datetime.date:
    offset = (weekday - day.weekday()) % 7
    if offset == 0:
        offset = 7
    return day + datetime.timedelta(days=offset)


def label(day: datetime.date, style: str = "short") -> str:
    if style == "short":
        return day.strftime("%d.%m.")
    return day.isoformat()
