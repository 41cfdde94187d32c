// Loaded into Azurite before its own code: it is told by the front that clients speak TLS, and believes it.
// Without this a signature that allows HTTPS alone is refused, although the client did use HTTPS.

const express = require("express");

const configured = express.application.defaultConfiguration;
express.application.defaultConfiguration = function () {
  configured.call(this);
  this.set("trust proxy", "loopback");
};
