export { default } from "./digits.js";
