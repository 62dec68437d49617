// Templates: what every view imports.
import htm from "./vendor/htm.js";
import { h } from "./vendor/preact.js";

export { Fragment, render } from "./vendor/preact.js";
export { useEffect, useMemo, useRef, useState } from "./vendor/preact-hooks.js";

export const html = htm.bind(h);
