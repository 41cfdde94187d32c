// Which operation of the Blob service a request is, in the words of its REST API without spaces.

const BLOB_BY_COMP = {
  PUT: {
    block: "PutBlock", blocklist: "PutBlockList", snapshot: "SnapshotBlob", properties: "SetBlobProperties",
    metadata: "SetBlobMetadata", lease: "LeaseBlob", tags: "SetBlobTags", tier: "SetBlobTier",
    incrementalcopy: "IncrementalCopyBlob", copy: "AbortCopyBlob",
  },
  GET: { metadata: "GetBlobMetadata", blocklist: "GetBlockList", tags: "GetBlobTags" },
};

/** Return `{operation, account, container, blob, query}` of a request to a path-style URL. */
export function classify(method, url, headers) {
  const [path, text = ""] = url.split("?", 2);
  const query = new URLSearchParams(text.replaceAll("+", "%2B"));
  const [, account = "", container = "", ...rest] = path.split("/");
  const blob = rest.map(decodeURIComponent).join("/");
  return { operation: operationOf(method, container, blob, query, headers), account, container, blob, query };
}

function operationOf(method, container, blob, query, headers) {
  const comp = query.get("comp") ?? "";
  if (blob === "") {
    if (container === "") return comp === "list" ? "ListContainers" : `Service${method}${comp}`;
    if (method === "GET" && comp === "list") return "ListBlobs";
    if (comp === "") return { PUT: "CreateContainer", DELETE: "DeleteContainer" }[method] ?? "GetContainerProperties";
    return `Container${method}${comp}`;
  }
  if (method === "GET" && comp === "pagelist") {
    return query.has("prevsnapshot") || headers["x-ms-previous-snapshot-url"] ? "GetPageRangesDiff" : "GetPageRanges";
  }
  if (method === "PUT" && comp === "page") {
    if (headers["x-ms-copy-source"]) return "PutPageFromURL";
    return headers["x-ms-page-write"]?.toLowerCase() === "clear" ? "ClearPages" : "PutPage";
  }
  if (comp !== "") return BLOB_BY_COMP[method]?.[comp] ?? `Blob${method}${comp}`;
  if (method === "PUT" && headers["x-ms-copy-source"]) return "CopyBlob";
  if (method === "PUT") return headers["x-ms-blob-type"] === "PageBlob" ? "CreatePageBlob" : "PutBlob";
  return { GET: "GetBlob", HEAD: "GetBlobProperties", DELETE: "DeleteBlob" }[method] ?? `Blob${method}`;
}
