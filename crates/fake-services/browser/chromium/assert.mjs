// The part of node:assert/strict that the scenarios use.

const show = (value) => JSON.stringify(value, (_, part) => (part === undefined ? 'undefined' : part))

function ok(value, message = 'not true') {
  if (!value) throw new Error(message)
}

export default {
  ok,
  equal: (actual, expected, message = '') => ok(Object.is(actual, expected), `${message} ${show(actual)} is not ${show(expected)}`),
  notEqual: (actual, other, message = '') => ok(!Object.is(actual, other), `${message} ${show(actual)}`),
  deepEqual: (actual, expected, message = '') => ok(show(actual) === show(expected), `${message} ${show(actual)} is not ${show(expected)}`),
  match: (text, pattern) => ok(pattern.test(text), `${text} does not match ${pattern}`),
  throws(action, pattern) {
    let error
    try {
      action()
    } catch (thrown) {
      error = thrown
    }
    ok(error && pattern.test(error.message), `throws ${error}`)
  },
}
