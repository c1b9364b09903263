// Runs one scenario:  node run.mjs NAME
// Prints the names of all:  node run.mjs

const files = ['documentation', 'fake', 'hour', 'joining', 'leaving', 'list', 'reads', 'sessions']
const modules = await Promise.all(files.map((file) => import(`./scenarios/${file}.mjs`)))
const scenarios = Object.assign({}, ...modules)
const [name] = process.argv.slice(2)
if (name === undefined) console.log(Object.keys(scenarios).join('\n'))
else await scenarios[name]()
