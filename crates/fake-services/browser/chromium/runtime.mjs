// What the scenarios need of Chromium, in place of ../runtime.mjs.

// The browser grants Auth's locks in its own time, for which the test's clock does not wait.
const lock = (_name, _timeout, action) => action()
export const createClient = (url, key, options) =>
  window.supabase.createClient(url, key, { ...options, auth: { lock, persistSession: false, ...options.auth } })

export const loadModule = () => import('/ticket-updates.js')

const channel = new MessageChannel()
const waiting = []
channel.port1.onmessage = () => waiting.shift()()
export const nextTurn = () =>
  new Promise((done) => {
    waiting.push(done)
    channel.port2.postMessage(null)
  })

export function setVisibility(visibilityState) {
  Object.defineProperty(document, 'visibilityState', { value: visibilityState, configurable: true })
}

export const seeds = [1, 2]
