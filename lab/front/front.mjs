// The thin front before Azurite: TLS towards clients, kept plain connections to Azurite, bodies streamed through.
// It mends what Azurite gets wrong (facts C3) and passes everything else through untouched.
//
//   node front.mjs --azurite-port N --port N --control-port N --certificate FILE --key FILE
//
// AZURITE_ACCOUNTS and LAB_CONTROL_TOKEN come by environment. When it serves it prints {"port", "control_port"}.

import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import https from "node:https";
import { setTimeout as after } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Control } from "./control.mjs";
import { crc64 } from "./crc64.mjs";
import { classify } from "./operations.mjs";
import { PageBlobs, pageList, parseRanges } from "./pageblobs.mjs";
import { isSigned, parseAccounts, signature } from "./sharedkey.mjs";
import { AZURITE_VERSION, finish, Refused, Upstream } from "./upstream.mjs";

const MOST_IN_PUT_PAGE = 4 * 1024 * 1024;
const MOST_CHECKED = 64 * 1024 * 1024;
const MOST_RANGES = 10_000;
const OVERWRITING = new Set(["PutBlob", "CreatePageBlob", "PutBlockList", "DeleteBlob", "CopyBlob"]);
const HOP_BY_HOP = new Set(["connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"]);

const { values: options } = parseArgs({
  options: Object.fromEntries(
    ["azurite-port", "port", "control-port", "certificate", "key"].map((name) => [name, { type: "string" }]),
  ),
});
const accounts = parseAccounts(process.env.AZURITE_ACCOUNTS);
const upstream = new Upstream(Number(options["azurite-port"]), accounts);
const pageBlobs = new PageBlobs(upstream);
const control = new Control();

class StorageError extends Error {
  constructor(status, code, message, headers = {}) {
    super(message);
    Object.assign(this, { status, code, headers });
  }
}

function sendError(response, { status, code, message, headers }) {
  const body = `<?xml version="1.0" encoding="utf-8"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`;
  response.writeHead(status, {
    "content-type": "application/xml", "content-length": Buffer.byteLength(body), "x-ms-error-code": code,
    "x-ms-request-id": randomUUID(), ...headers,
  });
  response.end(body);
}

function sendWhole(response, { status, headers, body }) {
  const kept = Object.fromEntries(Object.entries(headers).filter(([name]) => !HOP_BY_HOP.has(name)));
  response.writeHead(status, kept).end(body);
}

async function readBody(request, most) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > most) throw new StorageError(413, "RequestBodyTooLarge", "The request body is too large.");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** Return the headers for Azurite: `changes` applied (undefined removes), signed again where the client had signed. */
function headersFor(request, target, changes) {
  const headers = { ...request.headers };
  for (const name of HOP_BY_HOP) if (name !== "transfer-encoding") delete headers[name];
  const mended = { ...changes };
  if (headers["x-ms-version"] > AZURITE_VERSION) mended["x-ms-version"] = AZURITE_VERSION;
  const key = accounts.get(target.account);
  const mustSign = Object.keys(mended).length > 0 && headers.authorization?.startsWith("SharedKey ") && key !== undefined;
  const wasRight = mustSign && isSigned(target.account, key, request.method, request.url, headers);
  for (const [name, value] of Object.entries(mended)) {
    if (value === undefined) delete headers[name];
    else headers[name] = value;
  }
  if (wasRight) headers.authorization = signature(target.account, key, request.method, request.url, headers);
  return headers;
}

/** Check what Azurite does not: size, MD5 and CRC64. Returns the body if it had to be read, and the headers to change. */
async function checkBody(request, target) {
  const { headers } = request;
  const isPutPage = target.operation === "PutPage";
  if (isPutPage && Number(headers["content-length"] ?? 0) > MOST_IN_PUT_PAGE) {
    throw new StorageError(413, "RequestBodyTooLarge", "The request body is too large.");
  }
  const crc = headers["x-ms-content-crc64"];
  const md5 = isPutPage ? headers["content-md5"] : undefined;
  if (request.method !== "PUT" || (crc === undefined && md5 === undefined)) return { changes: {} };
  const body = await readBody(request, isPutPage ? MOST_IN_PUT_PAGE : MOST_CHECKED);
  if (crc !== undefined && crc !== crc64(body)) {
    throw new StorageError(400, "Crc64Mismatch", "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.");
  }
  if (md5 !== undefined && md5 !== createHash("md5").update(body).digest("base64")) {
    throw new StorageError(400, "Md5Mismatch", "The MD5 value specified in the request did not match with the MD5 value calculated by the server.");
  }
  return { body, changes: crc === undefined ? {} : { "x-ms-content-crc64": undefined }, crc };
}

function withoutHopByHop(rawHeaders) {
  const kept = [];
  for (let at = 0; at < rawHeaders.length; at += 2) {
    if (!HOP_BY_HOP.has(rawHeaders[at].toLowerCase())) kept.push(rawHeaders[at], rawHeaders[at + 1]);
  }
  return kept;
}

/** Return what is to be done with the response to a request that was carried out, or undefined: to send it on. */
function instead(fault, response) {
  if (fault?.action === "drop") return () => response.destroy();
  if (fault?.action === "answer") return () => sendError(response, asked(fault));
  return undefined;
}

/** Return the error that a fault asks for. */
function asked(fault) {
  const headers = fault.retry_after_s > 0 ? { "retry-after": String(fault.retry_after_s) } : {};
  return new StorageError(fault.status, fault.code, "The lab was asked for this.", headers);
}

/** Pass a request through to Azurite and its response back; resolves with the status once the response is sent. */
function passThrough(request, response, target, { body, changes, crc }, replace) {
  return new Promise((resolve, reject) => {
    const sent = upstream.begin(request.method, request.url, headersFor(request, target, changes));
    sent.on("error", reject);
    sent.on("response", (reply) => {
      reply.on("error", reject);
      if (replace !== undefined || response.destroyed) {
        reply.resume().on("end", () => {
          (replace ?? (() => response.destroy()))();
          resolve(reply.statusCode);
        });
        return;
      }
      const headers = withoutHopByHop(reply.rawHeaders);
      if (crc !== undefined && reply.statusCode < 300) headers.push("x-ms-content-crc64", crc);
      if (target.operation === "GetBlob" || target.operation === "GetBlobProperties") {
        const copied = target.query.has("snapshot") ? {} : pageBlobs.copyHeaders(request.url.split("?", 1)[0]);
        headers.push(...Object.entries(copied).flat());
      }
      response.writeHead(reply.statusCode, reply.statusMessage, headers);
      reply.pipe(response);
      response.on("close", () => {
        if (!reply.complete) sent.destroy();
        resolve(reply.statusCode);
      });
    });
    if (body !== undefined) sent.end(body);
    else {
      request.pipe(sent);
      request.on("close", () => {
        if (!request.complete) sent.destroy(new Error("the client went away"));
      });
    }
  });
}

/** Return the page blob that a Copy Blob request copies, or undefined where it is not ours or not a page blob. */
async function pageBlobSource(request, target) {
  const url = URL.canParse(request.headers["x-ms-copy-source"]) ? new URL(request.headers["x-ms-copy-source"]) : undefined;
  if (url === undefined || url.host !== request.headers.host) return undefined;
  const account = url.pathname.split("/")[1];
  if (!accounts.has(account) || (url.pathname === request.url.split("?", 1)[0] && !url.searchParams.has("snapshot"))) return undefined;
  const conditions = Object.fromEntries(
    Object.entries(request.headers)
      .filter(([name]) => name.startsWith("x-ms-source-if-"))
      .map(([name, value]) => [name.slice("x-ms-source-".length), value]),
  );
  const path = url.pathname + url.search;
  const head = url.searchParams.has("sig")
    ? upstream.begin("HEAD", path, { host: request.headers.host, "x-ms-version": AZURITE_VERSION, ...conditions })
    : account === target.account && upstream.beginSigned(account, "HEAD", path, conditions);
  if (!head) throw new StorageError(401, "CannotVerifyCopySource", "The copy source needs a signature of its own.");
  const { status, headers } = await finish(head);
  if (status === 412 || status === 304) throw new StorageError(412, "SourceConditionNotMet", "The source condition was not met.");
  if (status !== 200) throw new StorageError(status === 404 ? 404 : 403, "CannotVerifyCopySource", "The copy source cannot be read.");
  if (headers["x-ms-blob-type"] !== "PageBlob") return undefined;
  const snapshot = url.searchParams.get("snapshot");
  return { account, path: url.pathname, query: snapshot ? `snapshot=${encodeURIComponent(snapshot)}` : "", headers, url: url.origin + url.pathname };
}

/** Create the destination of a copy with the client's own authorization: Azurite judges its SAS, the front its key. */
function creatorFor(request, target) {
  const path = request.url;
  const conditions = Object.fromEntries(
    Object.entries(request.headers).filter(([name]) => name.startsWith("if-") || name === "x-ms-lease-id"),
  );
  const key = accounts.get(target.account);
  return (headers) => {
    const all = { "content-length": "0", ...conditions, ...headers };
    if (key !== undefined && request.headers.authorization && isSigned(target.account, key, request.method, path, request.headers)) {
      return upstream.fetchSigned(target.account, "PUT", path, all);
    }
    return finish(upstream.begin("PUT", path, { host: request.headers.host, "x-ms-version": AZURITE_VERSION, ...all }));
  };
}

/** Copy a page blob; returns the whole response. */
async function copyBlob(request, target, source) {
  const path = request.url.split("?", 1)[0];
  const headers = await pageBlobs.copy(source, { account: target.account, path }, creatorFor(request, target), request.headers);
  const own = { "x-ms-version": AZURITE_VERSION, "x-ms-request-id": randomUUID(), "content-length": "0" };
  return { status: 202, headers: { ...headers, ...own }, body: "" };
}

/** Compare a blob or snapshot with an earlier snapshot; returns the whole response. */
async function pageRangesDifference(request, target) {
  const listed = await finish(upstream.begin("GET", request.url, headersFor(request, target, {})));
  if (listed.status !== 200) return listed;
  const path = request.url.split("?", 1)[0];
  const byUrl = request.headers["x-ms-previous-snapshot-url"];
  const previous = target.query.get("prevsnapshot") ?? new URL(byUrl).searchParams.get("snapshot");
  const snapshot = target.query.get("snapshot");
  if (snapshot && previous > snapshot) {
    throw new StorageError(400, "PreviousSnapshotCannotBeNewer", "The prevsnapshot query parameter value cannot be newer than snapshot query parameter value.");
  }
  const size = Number(listed.headers["x-ms-blob-content-length"]);
  const asked = /^bytes=(\d+)-(\d*)$/.exec(request.headers["x-ms-range"] ?? request.headers.range ?? "bytes=0-");
  const window = [Number(asked[1]), asked[2] === "" ? size : Math.min(Number(asked[2]) + 1, size)];
  let difference;
  try {
    const all = await upstream.fetchSigned(target.account, "GET", `${path}?comp=pagelist${snapshot ? `&snapshot=${encodeURIComponent(snapshot)}` : ""}`);
    difference = await pageBlobs.difference(target.account, path, snapshot, previous, parseRanges(all.body.toString("utf8")), window);
  } catch (error) {
    if (error instanceof Refused && error.response.status === 404) {
      throw new StorageError(409, "PreviousSnapshotNotFound", "The previous snapshot is not found.");
    }
    throw error;
  }
  const most = Math.min(Number(target.query.get("maxresults") ?? MOST_RANGES), MOST_RANGES);
  const body = pageList(difference, Number(target.query.get("marker") ?? 0), most);
  const { "content-length": _, ...headers } = listed.headers;
  return { status: 200, headers: { ...headers, "content-length": String(Buffer.byteLength(body)) }, body };
}

/** Carry out what Azurite would get wrong; returns the whole response, or undefined for any other request. */
async function mend(request, target) {
  if (target.operation === "GetPageRangesDiff") return pageRangesDifference(request, target);
  const source = target.operation === "CopyBlob" ? await pageBlobSource(request, target) : undefined;
  return source === undefined ? undefined : copyBlob(request, target, source);
}

async function carryOut(request, response, target, fault) {
  const mended = await mend(request, target);
  const replace = instead(fault, response);
  if (mended !== undefined) {
    if (replace !== undefined) replace();
    else sendWhole(response, mended);
    return mended.status;
  }
  const checked = await checkBody(request, target);
  const status = await passThrough(request, response, target, checked, replace);
  if (status < 300 && OVERWRITING.has(target.operation) && !target.query.has("snapshot")) pageBlobs.forget(request.url.split("?", 1)[0]);
  return status;
}

async function serve(request, response) {
  const began = performance.now();
  const target = classify(request.method, request.url, request.headers);
  const fault = control.take(request.method, request.url, target);
  let status = 0;
  try {
    if (fault?.action === "delay") await after(fault.delay_s * 1000);
    if (fault?.action === "hold") await control.held();
    if (fault?.action === "cut") return response.destroy();
    if (fault?.action === "unavailable") {
      throw new StorageError(503, "ServerBusy", "The server is busy.", { "retry-after": String(fault.retry_after_s) });
    }
    if (fault?.action === "error") throw new StorageError(500, "InternalError", "The server encountered an internal error.");
    if (fault?.action === "answer" && !fault.after_effect) throw asked(fault);
    status = await carryOut(request, response, target, fault);
  } catch (error) {
    status = fail(request, response, error);
  } finally {
    control.record(target, request.headers, status, (performance.now() - began) / 1000);
  }
}

/** Answer a request that could not be carried out, or cut the connection where nothing true can be answered. */
function fail(request, response, error) {
  request.resume();
  if (response.headersSent || response.destroyed || !(error instanceof StorageError || error instanceof Refused)) {
    console.error(`${request.method} ${request.url.split("?", 1)[0]}: ${error.message}`);
    response.destroy();
    return 0;
  }
  if (error instanceof Refused) sendWhole(response, error.response);
  else sendError(response, error);
  return error instanceof Refused ? error.response.status : error.status;
}

const server = https.createServer(
  { key: readFileSync(options.key), cert: readFileSync(options.certificate), minVersion: "TLSv1.2", keepAlive: true, noDelay: true },
  serve,
);
// A frozen client's request is still a request when it wakes: that is what late writes are made of.
server.requestTimeout = 0;
server.keepAliveTimeout = 120_000;
await new Promise((resolve, reject) => server.on("error", reject).listen(Number(options.port), "127.0.0.1", resolve));
const controlServer = await control.listen(Number(options["control-port"]), process.env.LAB_CONTROL_TOKEN);
process.on("SIGTERM", () => process.exit(0));
console.log(JSON.stringify({ port: server.address().port, control_port: controlServer.address().port }));
