// Azure Storage's SharedKey signature, so that the front can send requests of its own, and can sign again a request
// of which it had to change a signed header. Source: "Authorize with Shared Key" of the Blob service REST API.

import { createHmac, timingSafeEqual } from "node:crypto";

const SIGNED = [
  "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
  "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
];

/** Return the accounts of AZURITE_ACCOUNTS (`name:key;name:key`) as a map from name to key. */
export function parseAccounts(text) {
  return new Map(text.split(";").filter(Boolean).map((entry) => entry.split(":").slice(0, 2)));
}

/** Return the Authorization header for a request to a path-style URL; `headers` has lower-case names. */
export function signature(account, key, method, path, headers) {
  const [resource, query = ""] = path.split("?", 2);
  const standard = SIGNED.map((name) => (name === "content-length" && headers[name] === "0" ? "" : headers[name] ?? ""));
  const own = Object.keys(headers).filter((name) => name.startsWith("x-ms-")).sort(compareHeaders);
  const parameters = [...new URLSearchParams(query.replaceAll("+", "%2B"))]
    .map(([name, value]) => [name.toLowerCase(), value])
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  const text = [
    method, ...standard, ...own.map((name) => `${name}:${String(headers[name]).trim()}`), `/${account}${resource}`,
    ...parameters.map(([name, value]) => `${name}:${value}`),
  ].join("\n");
  return `SharedKey ${account}:${createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64")}`;
}

/** Return whether a request carries the right SharedKey signature of its account. */
export function isSigned(account, key, method, path, headers) {
  const given = Buffer.from(headers.authorization ?? "");
  const right = Buffer.from(signature(account, key, method, path, headers));
  return given.length === right.length && timingSafeEqual(given, right);
}

// The service sorts headers by a table in which `-` weighs least; the names that the front meets differ from plain
// order only there.
function compareHeaders(a, b) {
  const left = a.replaceAll("-", "\u0001");
  const right = b.replaceAll("-", "\u0001");
  return left < right ? -1 : left > right ? 1 : 0;
}
