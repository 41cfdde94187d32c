// What Azurite gets wrong about page blobs (facts C3): copies that alias the source's data, and differences between
// snapshots that name every range. Both are done here from ranges and bytes, as the real service's results are.

import { randomUUID } from "node:crypto";
import { pipeline } from "node:stream/promises";
import { answer, finish, Refused } from "./upstream.mjs";

const CHUNK = 4 * 1024 * 1024;
const SECTOR = 512;
const AT_ONCE = 4;
const COPIED_PROPERTIES = {
  "content-type": "x-ms-blob-content-type", "content-encoding": "x-ms-blob-content-encoding",
  "content-language": "x-ms-blob-content-language", "cache-control": "x-ms-blob-cache-control",
  "content-disposition": "x-ms-blob-content-disposition",
};

/** Run `work` on each item, a few at a time; the first failure ends it. */
async function forEach(items, work) {
  const queue = items[Symbol.iterator]();
  const runner = async () => {
    for (let next = queue.next(); !next.done; next = queue.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, runner));
}

/** Return the ranges of a PageList document as sorted, merged, half-open `[start, end]` pairs. */
export function parseRanges(xml) {
  const found = [...xml.matchAll(/<PageRange>\s*<Start>(\d+)<\/Start>\s*<End>(\d+)<\/End>/g)];
  return merge(found.map(([, start, end]) => [Number(start), Number(end) + 1]).sort((a, b) => a[0] - b[0]));
}

function merge(sorted) {
  const merged = [];
  for (const [start, end] of sorted) {
    const last = merged.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else merged.push([start, end]);
  }
  return merged;
}

function intersect(left, right) {
  const common = [];
  for (let i = 0, j = 0; i < left.length && j < right.length; ) {
    const start = Math.max(left[i][0], right[j][0]);
    const end = Math.min(left[i][1], right[j][1]);
    if (start < end) common.push([start, end]);
    if (left[i][1] < right[j][1]) i++;
    else j++;
  }
  return common;
}

function subtract(ranges, holes) {
  const rest = [];
  let j = 0;
  for (const [from, end] of ranges) {
    let start = from;
    while (j < holes.length && holes[j][1] <= start) j++;
    for (let k = j; k < holes.length && holes[k][0] < end; k++) {
      if (holes[k][0] > start) rest.push([start, holes[k][0]]);
      start = Math.max(start, holes[k][1]);
    }
    if (start < end) rest.push([start, end]);
  }
  return rest;
}

function* chunksOf(ranges) {
  for (const [start, end] of ranges) {
    for (let at = start; at < end; at += CHUNK) yield [at, Math.min(at + CHUNK, end)];
  }
}

function addDifferences(left, right, offset, found) {
  if (left.equals(right)) return;
  if (left.length <= SECTOR) {
    found.push([offset, offset + left.length]);
    return;
  }
  const half = Math.ceil(left.length / 2 / SECTOR) * SECTOR;
  addDifferences(left.subarray(0, half), right.subarray(0, half), offset, found);
  addDifferences(left.subarray(half), right.subarray(half), offset + half, found);
}

export class PageBlobs {
  /** `upstream` reaches Azurite; a copy's properties are remembered here and added to the destination's answers. */
  constructor(upstream) {
    this.upstream = upstream;
    this.copies = new Map();
  }

  /** Return the x-ms-copy-* headers of a blob that was made by a copy, or none. */
  copyHeaders(path) {
    return this.copies.get(path) ?? {};
  }

  /** Forget that a blob was made by a copy: it was overwritten or deleted. */
  forget(path) {
    this.copies.delete(path);
  }

  async #ranges(account, path, query) {
    const separator = query ? `?${query}&` : "?";
    const reply = await this.upstream.fetchSigned(account, "GET", `${path}${separator}comp=pagelist`);
    if (reply.status !== 200) throw new Refused(reply);
    return parseRanges(reply.body.toString("utf8"));
  }

  async #read(account, path, query, [start, end], conditions = {}) {
    const headers = { "x-ms-range": `bytes=${start}-${end - 1}`, ...conditions };
    const reply = await finish(this.upstream.beginSigned(account, "GET", query ? `${path}?${query}` : path, headers));
    if (reply.status !== 206 && reply.status !== 200) throw new Refused(reply);
    return reply.body;
  }

  /**
   * Copy a page blob or a snapshot of one, range by range. `source` is `{account, path, query, headers}` with the
   * answer's headers of a HEAD request; `create` sends the request that makes the empty destination, with the
   * client's own authorization, and returns its response. Returns the response's headers.
   */
  async copy(source, destination, create, clientHeaders) {
    const size = Number(source.headers["content-length"]);
    const made = await create({
      "x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": String(size),
      "x-ms-blob-sequence-number": source.headers["x-ms-blob-sequence-number"] ?? "0",
      ...this.#copiedHeaders(source.headers, clientHeaders),
    });
    if (made.status !== 201) throw new Refused(made);
    const lease = clientHeaders["x-ms-lease-id"] ? { "x-ms-lease-id": clientHeaders["x-ms-lease-id"] } : {};
    const ranges = await this.#ranges(source.account, source.path, source.query);
    const from = source.query ? `${source.path}?${source.query}` : source.path;
    await forEach(chunksOf(ranges), async ([start, end]) => {
      const range = `bytes=${start}-${end - 1}`;
      const read = this.upstream.beginSigned(source.account, "GET", from, { "x-ms-range": range, "if-match": source.headers.etag });
      const content = await answer(read);
      if (content.statusCode >= 300) throw new Refused({ status: content.statusCode, headers: content.headers, body: await drain(content) });
      const write = this.upstream.beginSigned(destination.account, "PUT", `${destination.path}?comp=page`, {
        "content-length": String(end - start), "x-ms-page-write": "update", "x-ms-range": range, ...lease,
      });
      const written = new Promise((resolve, reject) => write.on("response", resolve).on("error", reject));
      const [stored] = await Promise.all([written, pipeline(content, write)]);
      const body = await drain(stored);
      if (stored.statusCode !== 201) throw new Refused({ status: stored.statusCode, headers: stored.headers, body });
    });
    const now = await this.upstream.fetchSigned(destination.account, "HEAD", destination.path);
    const copied = { "x-ms-copy-id": randomUUID(), "x-ms-copy-status": "success" };
    this.copies.set(destination.path, {
      ...copied, "x-ms-copy-source": source.url, "x-ms-copy-progress": `${size}/${size}`,
      "x-ms-copy-completion-time": new Date().toUTCString(),
    });
    return { ...copied, etag: now.headers.etag, "last-modified": now.headers["last-modified"] };
  }

  #copiedHeaders(source, client) {
    const headers = {};
    for (const [from, to] of Object.entries(COPIED_PROPERTIES)) if (source[from]) headers[to] = source[from];
    const named = Object.keys(client).filter((name) => name.startsWith("x-ms-meta-"));
    const metadata = named.length > 0 ? client : source;
    for (const name of Object.keys(metadata)) if (name.startsWith("x-ms-meta-")) headers[name] = metadata[name];
    return headers;
  }

  /**
   * Return `{changed, cleared}`: ranges of a blob or snapshot that differ from an earlier snapshot. `current` are the
   * present ranges as Azurite lists them; `window` is the part of the blob that was asked for.
   */
  async difference(account, path, snapshot, previous, current, window) {
    const now = intersect(current, [window]);
    const before = intersect(await this.#ranges(account, path, `snapshot=${encodeURIComponent(previous)}`), [window]);
    const changed = subtract(now, before);
    const nowQuery = snapshot ? `snapshot=${encodeURIComponent(snapshot)}` : "";
    await forEach(chunksOf(intersect(now, before)), async (range) => {
      const [left, right] = await Promise.all([
        this.#read(account, path, nowQuery, range),
        this.#read(account, path, `snapshot=${encodeURIComponent(previous)}`, range),
      ]);
      addDifferences(left, right, range[0], changed);
    });
    return { changed: merge(changed.sort((a, b) => a[0] - b[0])), cleared: subtract(before, now) };
  }
}

async function drain(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Return a PageList document of at most `most` ranges from offset `after` on, with a marker where there are more. */
export function pageList({ changed, cleared }, after, most) {
  const all = [
    ...changed.map(([start, end]) => ({ tag: "PageRange", start, end })),
    ...cleared.map(([start, end]) => ({ tag: "ClearRange", start, end })),
  ].filter((range) => range.start >= after).sort((a, b) => a.start - b.start);
  const page = all.slice(0, most);
  const marker = all.length > page.length ? String(all[page.length].start) : "";
  const ranges = page.map(({ tag, start, end }) => `<${tag}><Start>${start}</Start><End>${end - 1}</End></${tag}>`);
  return `<?xml version="1.0" encoding="utf-8"?><PageList>${ranges.join("")}<NextMarker>${marker}</NextMarker></PageList>`;
}
