// Runs one scenario:  node run.mjs NAME
// Prints the names of all:  node run.mjs
import * as joining from './scenarios/joining.mjs'
import * as list from './scenarios/list.mjs'
import * as hour from './scenarios/hour.mjs'
import * as documentation from './scenarios/documentation.mjs'

const scenarios = { ...joining, ...list, ...hour, ...documentation }
const [name] = process.argv.slice(2)
if (name === undefined) console.log(Object.keys(scenarios).join('\n'))
else await scenarios[name]()
