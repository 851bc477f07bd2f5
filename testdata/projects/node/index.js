const isNumber = require("is-number");
console.log("42 is a number:", isNumber("42"));
