// Requests to Azurite over kept connections on the loopback interface.

import http from "node:http";
import { signature } from "./sharedkey.mjs";

/** The newest x-ms-version that Azurite 3.35 knows; a newer one is lowered to it. */
export const AZURITE_VERSION = "2025-11-05";

/** What Azurite is told of the client's connection (behind_front.cjs). */
const FRONT_SPEAKS_TLS = [["x-forwarded-proto", "https"]];

export class Upstream {
  constructor(port, accounts) {
    this.port = port;
    this.accounts = accounts;
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 64, scheduling: "lifo" });
  }

  /** Begin a request whose body the caller writes; `headers` as an object or as a flat list of names and values. */
  begin(method, path, headers) {
    const told = Array.isArray(headers) ? [...headers, ...FRONT_SPEAKS_TLS.flat()] : { ...headers, ...Object.fromEntries(FRONT_SPEAKS_TLS) };
    return http.request({ host: "127.0.0.1", port: this.port, agent: this.agent, method, path, headers: told, setHost: false });
  }

  /** Begin a request of the front's own, signed with the account's key. */
  beginSigned(account, method, path, headers) {
    const all = {
      host: `127.0.0.1:${this.port}`, "x-ms-date": new Date().toUTCString(), "x-ms-version": AZURITE_VERSION, ...headers,
    };
    all.authorization = signature(account, this.accounts.get(account), method, path, all);
    return this.begin(method, path, all);
  }

  /** Send a small request of the front's own and return its response with the body read. */
  async fetchSigned(account, method, path, headers = {}) {
    const empty = method === "PUT" ? { "content-length": "0" } : {};
    return finish(this.beginSigned(account, method, path, { ...empty, ...headers }));
  }
}

/** End a request and return `{status, headers, body}`. */
export async function finish(request, body) {
  const response = await answer(request, body);
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) };
}

/** End a request and return its response as a stream. */
export function answer(request, body) {
  return new Promise((resolve, reject) => {
    request.on("response", resolve).on("error", reject);
    request.end(body);
  });
}

/** A request of the front's own that Azurite refused: passed on to the client as it is. */
export class Refused extends Error {
  constructor(response) {
    super(`Azurite answered ${response.status}`);
    this.response = response;
  }
}
