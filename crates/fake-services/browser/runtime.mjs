// What the scenarios need of node. In Chromium, chromium/runtime.mjs takes the place of this file.
// `PG_CIVIC_SUPABASE_JS` names the directory of the npm packages.

import { readFileSync } from 'node:fs'

export const MODULE = new URL('../../../docs/browser/ticket-updates.js', import.meta.url)

const packages = `file://${process.env.PG_CIVIC_SUPABASE_JS}/node_modules/`
export const { createClient } = await import(`${packages}@supabase/supabase-js/dist/index.mjs`)

/** The module, as a module: without a package.json beside it node would take it for CommonJS. */
export const loadModule = () => import(`data:text/javascript,${encodeURIComponent(readFileSync(MODULE, 'utf8'))}`)

const { setImmediate } = globalThis
/** Ends when what has been waiting to run has run. */
export const nextTurn = () => new Promise((done) => setImmediate(done))

/** The document of a page, of which only the visibility matters. */
globalThis.document = new EventTarget()
export function setVisibility(visibilityState) {
  document.visibilityState = visibilityState
}

/** The hours that are played: `make proof` has more of them. */
export const seeds = process.env.SEED
  ? [Number(process.env.SEED)]
  : Array.from({ length: process.env.CIVIC_PROOF ? 40 : 4 }, (_, index) => index + 1)
