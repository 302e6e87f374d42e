// Numbers in words and short forms. The same rules as webapp/templatetags/words.py; a test compares the two.

/** 18314 -> "18.3 k"; below a thousand as it is. */
export function count(n) {
  if (n === null || n === undefined) return "—";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (Math.abs(n) >= size * 0.9995) return `${three(n / size)} ${unit}`;
  }
  return String(Math.round(n));
}

/** 74088 -> "74.1 k"; beyond all units as a power: 79792266e9 -> "about 8·10¹⁶". */
export function multitude(n) {
  if (n < 1e12) return count(n);
  const [first, power] = n.toExponential(0).split("e+");
  return `about ${first === "1" ? "" : `${first}·`}10${Array.from(power, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
}

/** 18314 -> "18,314"; a size in milliseconds keeps three digits: 0.41234 -> "0.412". */
export function whole(n) {
  if (n === null || n === undefined) return "—";
  return Math.abs(n) < 1000 && !Number.isInteger(n) ? String(Number(n.toPrecision(3))) : Math.round(n).toLocaleString("en-US");
}

/** A size in its unit: 18314 -> "18,314", 1204992 -> "1.20 M". */
export function amount(n) {
  return n < 1e6 ? whole(n) : count(n);
}

/** 0.9722 -> "97.2 %". */
export function percent(fraction, digits = 1) {
  return fraction === null || fraction === undefined ? "—" : `${(100 * fraction).toFixed(digits)} %`;
}

/** 71300 -> "71.3 kB". */
export function bytes(n) {
  const short = count(n);
  return short === "—" ? short : /[kMG]$/.test(short) ? `${short}B` : `${short} bytes`;
}

/** 412 -> "412 MiB", 1500 -> "1.46 GiB". */
export function memory(mib) {
  return mib >= 1024 ? `${three(mib / 1024)} GiB` : `${Math.round(mib)} MiB`;
}

/** 170 -> "about 3 minutes". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "—";
  if (seconds < 8) return "a few seconds";
  if (seconds < 50) return `about ${10 * Math.max(1, Math.round(seconds / 10))} seconds`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 60) return `about ${plural(minutes, "minute")}`;
  const hours = Math.floor(minutes / 60);
  if (hours >= 36) return `about ${plural(Math.round(minutes / 1440), "day")}`;
  const rest = hours < 5 ? 10 * Math.round((minutes % 60) / 10) : 0;
  if (rest === 60) return `about ${plural(hours + 1, "hour")}`;
  return `about ${plural(hours, "hour")}${rest ? ` ${rest} minutes` : ""}`;
}

/** 0.84 -> "0.84 ms", 18.34 -> "18.3 ms"; browsers tell time no finer than a tenth. */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "—";
  return ms < 0.1 ? "less than 0.1 ms" : `${three(ms)} ms`;
}

/** (70, 240) -> "1 to 4 minutes". */
export function span(least, most) {
  const [first, last] = [least, most].map((seconds) => duration(seconds).replace("about ", ""));
  if (first === last) return duration(most);
  const unit = (text) => text.slice(text.indexOf(" ") + 1).replace(/s$/, "");
  return `${unit(first) === unit(last) ? first.split(" ")[0] : first} to ${last}`;
}

/** 170 -> "3 minutes ago". */
export function ago(seconds) {
  return seconds < 50 ? "just now" : `${duration(seconds).replace("about ", "")} ago`;
}

/** plural(1, "unit") -> "1 unit"; plural(1200, "unit") -> "1,200 units". */
export function plural(n, word) {
  return `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
}

/** ["a", "b", "c"] -> "a, b and c". */
export function enumerated(parts) {
  return parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : (parts[0] ?? "");
}

/** [12000, 8000] -> "12,000 and 8,000". */
export function listed(numbers) {
  return enumerated(numbers.map(whole));
}

/** "macs" -> "multiply-adds"; the unit that a target counts. */
export function metricUnit(metric) {
  return { macs: "multiply-adds", latency_ms: "ms" }[metric] ?? "parameters";
}

function three(x) {
  const size = Math.abs(x);
  return x.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}
