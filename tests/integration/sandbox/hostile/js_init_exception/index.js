throw new TypeError('at import');
