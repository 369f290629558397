// In the spirit of GNOME Shell's own rules. To run it: npx eslint@9 extension
// (eslint is no part of what the project needs).

const globals = Object.fromEntries(
    ['console', 'global', 'TextDecoder', 'TextEncoder', 'log', 'logError'].map(name => [name, 'readonly']));

export default [{
    files: ['**/*.js'],
    languageOptions: {ecmaVersion: 2024, sourceType: 'module', globals},
    linterOptions: {reportUnusedDisableDirectives: 'error'},
    rules: {
        'array-bracket-newline': ['error', 'consistent'],
        'array-callback-return': 'error',
        'arrow-parens': ['error', 'as-needed'],
        'arrow-spacing': 'error',
        'brace-style': 'error',
        'camelcase': ['error', {properties: 'never', allow: ['^vfunc_', '^on_', 'temperature_c', 'power_watts']}],
        'comma-dangle': ['error', {arrays: 'always-multiline', objects: 'always-multiline', functions: 'never'}],
        'comma-spacing': 'error',
        'curly': ['error', 'multi-or-nest', 'consistent'],
        'dot-notation': 'error',
        'eol-last': 'error',
        'eqeqeq': 'error',
        'indent': ['error', 4, {ignoredNodes: [
            'CallExpression[callee.object.name=GObject][callee.property.name=registerClass] > ClassExpression:first-child',
        ], MemberExpression: 'off', SwitchCase: 0}],
        'key-spacing': 'error',
        'keyword-spacing': 'error',
        'max-len': ['error', {code: 120}],
        'no-constant-condition': 'error',
        'no-duplicate-imports': 'error',
        'no-implicit-coercion': ['error', {allow: ['!!']}],
        'no-shadow': 'error',
        'no-trailing-spaces': 'error',
        'no-undef': 'error',
        'no-unused-vars': ['error', {argsIgnorePattern: '^_', varsIgnorePattern: '^_$'}],
        'no-use-before-define': ['error', {functions: false}],
        'no-useless-return': 'error',
        'no-var': 'error',
        'object-curly-spacing': 'error',
        'object-shorthand': 'error',
        'operator-linebreak': ['error', 'after', {overrides: {'?': 'before', ':': 'before', '=': 'after'}}],
        'prefer-const': 'error',
        'prefer-template': 'error',
        'quotes': ['error', 'single', {avoidEscape: true}],
        'require-await': 'error',
        'semi': ['error', 'always'],
        'space-before-function-paren': ['error', {named: 'never', anonymous: 'always', asyncArrow: 'always'}],
        'space-infix-ops': 'error',
    },
}];
