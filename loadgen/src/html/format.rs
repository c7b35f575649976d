//! Numbers as people read them, and text that is safe in a page.

/// Text for an element or an attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

/// Three significant digits, with commas from a thousand on.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if size >= 99.95 {
        return grouped(value.round() as i64);
    }
    let digits = match size {
        _ if size == 0.0 => 0,
        _ if size < 0.0995 => 3,
        _ if size < 9.995 => 2,
        _ => 1,
    };
    format!("{value:.digits$}")
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut out = String::new();
    if value < 0 {
        out.push('−');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds in the unit that fits: `850 ns`, `18.3 µs`, `1.24 ms`, `2.50 s`.
pub fn micros(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{} ns", number(value * 1e3)),
        size if size < 999.5 => format!("{} µs", number(value)),
        size if size < 999_500.0 => format!("{} ms", number(value / 1e3)),
        _ => format!("{} s", number(value / 1e6)),
    }
}

/// An axis's own labels: round numbers, so without digits that say nothing.
pub fn micros_tick(value: f64) -> String {
    let (value, unit) = match value.abs() {
        0.0 => return "0".to_owned(),
        size if size < 0.999 => (value * 1e3, "ns"),
        size if size < 999.0 => (value, "µs"),
        size if size < 999_000.0 => (value / 1e3, "ms"),
        _ => (value / 1e6, "s"),
    };
    format!("{} {unit}", trimmed(value))
}

/// A round number: `1.5k`, `200k`, `2M`.
pub fn count_tick(value: f64) -> String {
    match value.abs() {
        size if size < 999.0 => trimmed(value),
        size if size < 999_000.0 => format!("{}k", trimmed(value / 1e3)),
        _ => format!("{}M", trimmed(value / 1e6)),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() || text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Bytes in the unit that fits.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value.abs() >= 1023.5 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", number(value), UNITS[unit])
}

/// Civil date and time in UTC of milliseconds since 1970.
pub fn date(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's days-to-civil: years that begin in March have their leap day at the end.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_their_unit() {
        for (value, text) in
            [(0.0, "0"), (0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(f64::NAN), "–");
        let told: Vec<_> = [0.5, 18.34, 1240.0, 2.5e6].into_iter().map(micros).collect();
        assert_eq!(told, ["500 ns", "18.3 µs", "1.24 ms", "2.50 s"]);
        assert_eq!([bytes(512.0), bytes(1536.0), bytes(3e9)], ["512 B", "1.50 KiB", "2.79 GiB"]);
        assert_eq!([micros_tick(200.0), micros_tick(2e6)], ["200 µs", "2 s"]);
        assert_eq!([count_tick(1500.0), count_tick(0.5), count_tick(2e6)], ["1.5k", "0.5", "2M"]);
    }

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_795_351_980_000), "2026-11-22 12:53 UTC");
    }

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escape("<a b='\"&'>"), "&lt;a b=&#39;&quot;&amp;&#39;&gt;");
    }
}
